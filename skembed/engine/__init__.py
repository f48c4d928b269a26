"""The one inference loop and its parts."""
