dir/sub/b.go
