// Upstream's butane, which our translator is compared with. Only tests need it; go.sum proves every module that it is made of.
module fortress-kit/oracle

go 1.24.0

require github.com/coreos/butane v0.29.0
