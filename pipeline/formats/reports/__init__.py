"""What is reported: the capacity extract, and the US SAFR measure."""
