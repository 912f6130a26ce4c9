"""What is installed, and how it lives beside other packages."""
