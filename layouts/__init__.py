"""Lists the images of a dataset folder: CSV lists, folders of its parts, class folders."""
