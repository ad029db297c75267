"""LEAD: layers of a larger teacher teach layers of a small dual encoder (arXiv:2212.05225)."""
