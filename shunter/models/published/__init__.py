"""What others measured as rows: published, with the performance model that shunter ships, and imported."""
