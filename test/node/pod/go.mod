module fortress-kit/node/pod

go 1.26.0
