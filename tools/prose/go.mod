module github.com/keyferry/keyferry/tools/prose

go 1.26.2
