"""The devices of a machine. Every reader takes a root folder and a PATH, so that tests give it recorded ones."""
