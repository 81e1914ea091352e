"""Train the prior of a world on its public people, and measure it.

    python scripts/train_gan.py --world=worlds/mine --photos=my_photos --critic=runs/mine-critic/critic.safetensors \\
        --eye=pretrained/faces/lpips_face.safetensors

writes state, log, sample grids and prior.safetensors with its card into runs/mine-prior. It says at the start how long it
will take. An interrupted training goes on with the same command and --resume, and ends in the same bits. --photos takes a
folder of people, a flat folder or a zip of pictures; a fifth of them is kept apart, to measure the prior with.

    python scripts/train_gan.py --photos=FACES.zip --critic=TRUNK --discriminator=features --alone=0.3 --perceptual=1

compares photos with their reconstructions in the features of a frozen network, and lets small discriminators look at the
same features: cheaper, and sharper for as long a training. --critic takes several, with commas between.

Time: 0.57 s a step, an hour for 6 200 steps, on one CPU core.
"""

from ganinv.commands.train_gan import main

if __name__ == "__main__":
    main()
