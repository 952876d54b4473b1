"""What single decisions cost: `make microbench`. See bench/README.md."""
