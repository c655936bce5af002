dir/b.go
