"""The retriever trained by itself, on queries with positive and negative passages.

`step.py` shows one step; `python train.py --task dense` and `python -m gazetteer.dense.train_dr`
run it.
"""
