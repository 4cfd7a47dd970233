"""Commands around performance models: fit and update one, predict with it, compare two, calibrate."""
