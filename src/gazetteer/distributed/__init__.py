"""Processes: how they start, talk, agree and stop. Only this package knows torch.distributed."""
