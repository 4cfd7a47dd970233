"""How wrong predictors are on rows that they had not seen, by what was held out, beside plain regressors."""
