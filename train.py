"""Train or test a model: `python train.py --help` says how. All of it is in perceiver/run and conf/."""

import sys

try:
    from perceiver.run.main import main
except KeyboardInterrupt:
    sys.exit(130)

if __name__ == "__main__":
    main()
