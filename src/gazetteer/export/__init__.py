"""Trained retrievers as folders of other tools, with a model card."""
