"""What one decision costs: `python -m bench.micro`."""
