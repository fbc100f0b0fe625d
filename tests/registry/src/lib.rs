//! A real container registry on loopback, for tests.
