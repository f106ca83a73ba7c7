"""`python -m povid_jax.convert`."""

from povid_jax.convert import command

if __name__ == "__main__":
  command()
