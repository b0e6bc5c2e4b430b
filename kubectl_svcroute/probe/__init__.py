"""`probe`: real connections to a Service, and where they went. The only part of the program that does more than read."""
