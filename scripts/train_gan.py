"""Train the prior of a world on its public people, and measure it.

    python scripts/train_gan.py --photos=data/lfw --eye=pretrained/lfw/lpips_face.safetensors

writes state, log, sample grids and prior.safetensors with its card into runs/lfw-prior. An interrupted training goes on
with the same command and --resume, and ends in the same bits.

Time: TIME on 2 CPU cores.
"""

from ganinv.commands.train_gan import main

if __name__ == "__main__":
    main()
