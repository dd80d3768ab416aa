"""What compare_torch.py is made of: our_side and torch_side (the two that are compared), rows and lines (the work), report (the answer)."""
