"""Train a compressor and its reader on records.   python train_with_evaluation.py --help"""

import sys

from gazetteer.compress.train_with_evaluation import main

if __name__ == "__main__":
    sys.exit(main())
