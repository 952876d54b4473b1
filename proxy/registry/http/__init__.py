"""Lists of instances on HTTP servers, such as Prometheus' HTTP service discovery."""
