"""Train or test a model; see `python train.py --help`. The code is in perceiver/run, the configuration in conf/."""

import sys

try:
    from perceiver.run.main import main
except KeyboardInterrupt:
    sys.exit(130)

if __name__ == "__main__":
    main()
