"""`python -m sagan_deploy` is the `sagan-deploy` program."""

from sagan_deploy.cli.app import main

main()
