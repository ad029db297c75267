"""Training data for a compressor: `gazetteer.compress.prepare_dataset` under this name."""

import sys

from gazetteer.compress.prepare_dataset import main

if __name__ == "__main__":
    sys.exit(main())
