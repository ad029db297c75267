"""A small real data set for a compressor.   python prepare_small_real_dataset.py --help"""

import sys

from gazetteer.compress.small_real import main

if __name__ == "__main__":
    sys.exit(main())
