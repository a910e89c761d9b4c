"""Files that hold trained networks: our own format, and (one file each) those of public implementations."""
