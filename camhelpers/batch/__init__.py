"""Headless work: notebooks with parameters, and folders of volumes."""
