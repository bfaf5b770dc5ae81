"""The model zoo: trained models that ship with the project or are listed with an address, and their way in, out and onwards."""
