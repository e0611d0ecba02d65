module github.com/keyferry/keyferry/tools/promises

go 1.26.2
