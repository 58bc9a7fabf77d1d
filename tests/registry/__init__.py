"""The schema registry for real: Apicurio Registry on this machine."""
