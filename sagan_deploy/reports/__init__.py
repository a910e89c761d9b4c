"""What was found, told to people and machines: terminal, JSON, JUnit, GitHub, HTML."""
