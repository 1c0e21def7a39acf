"""The web page of `explore.py`: one drops a photograph and walks through the network."""
