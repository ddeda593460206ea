"""Test support: servers, browsers, drawings and models that tests share."""
