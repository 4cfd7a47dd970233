"""Published measurements as rows, and the performance model fitted to them that shunter ships."""
