"""Train or test a model: `python train.py --help` says how. All of it is in perceiver/run and conf/."""

from perceiver.run.main import main

if __name__ == "__main__":
    main()
