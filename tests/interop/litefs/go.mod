module interop

go 1.24.0

require github.com/superfly/ltx v0.3.14
