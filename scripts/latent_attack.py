"""Reconstruct registered users of a face recognizer by searching the latent space of a public face GAN.

    python scripts/latent_attack.py

attacks ten users of the shipped world `synthetic`, people who do not exist; scores go to the screen, pictures and report
into runs/latent-synthetic-000. On a recognizer that people deploy, with 40 users enrolled:

    python scripts/latent_attack.py --world=faces --seed=1

Time: 41 seconds on 2 CPU cores, of which the attack takes 19; the judge takes all 5 users for the right ones.
"""

from ganinv.commands.latent_attack import main

if __name__ == "__main__":
    main()
