"""What is done for a release: wheels, their checks, the pictures of the first page."""
