"""Reconstruct registered users of a face recognizer by searching the latent space of a public face GAN.

    python scripts/latent_attack.py

attacks five users of the shipped world `lfw`; scores go to the screen, pictures and report into runs/latent-lfw-000.
With reference photos (see scripts/prepare_lfw.py) the report has LPIPS too:

    python scripts/latent_attack.py --photos=data/lfw --space=w_plus --seed=1

Time: 65 seconds on 2 CPU cores, of which the search takes 58; the judge takes 4 of 5 users for the right ones.
"""

from ganinv.commands.latent_attack import main

if __name__ == "__main__":
    main()
