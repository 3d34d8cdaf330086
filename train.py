"""Train or test a model; see `python train.py --help`. The code is in perceiver/run, the configuration in conf/."""

from perceiver.run.main import main

if __name__ == "__main__":
    main()
