"""What people have: directories and zips of files, and tables."""
