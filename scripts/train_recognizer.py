"""Train a recognizer of a world: target, judge, verifier or lpips_face.

    python scripts/train_recognizer.py --world=lfw --role=target

writes state, log and target.safetensors with its card (what it was trained on, what it can do) into runs/lfw-target. An
interrupted training goes on with the same command and --resume, and ends in the same bits.

Time: 0.75 s a step of ResNet-18, 20 minutes for the target, on one CPU core; ResNet-34 takes twice that.
"""

from ganinv.commands.train_recognizer import main

if __name__ == "__main__":
    main()
