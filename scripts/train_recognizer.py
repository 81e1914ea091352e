"""Train a recognizer of a world: target, judge, verifier, lpips_face, or a further target: cnn, softmax, mlp.

    python scripts/train_recognizer.py --world=synthetic --role=target --users=gallery

writes state, log and target.safetensors with its card (what it was trained on, what it can do) into runs/synthetic-target.
An interrupted training goes on with the same command and --resume, and ends in the same bits. It says after three steps how
long it takes: 23 minutes for the target, 19 for the judge and 14 for the verifier, on one core of a server's CPU.
"""

from ganinv.commands.train_recognizer import main

if __name__ == "__main__":
    main()
