"""How the state database came to be, revision by revision; run by `server.state.database`."""
