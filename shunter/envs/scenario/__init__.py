"""Scenario files: ``scenario`` reads and checks one, ``library`` holds those that shunter ships."""
