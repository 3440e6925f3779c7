-- End the lease of a worker process that is known to be dead, if it still holds the job.
-- ARGV: id, worker
-- Returns 1 if it did: the job goes back to the queue when jobs are reaped next.
go_on_without_memory()
if get(ARGV[1], 'status') ~= 'running' or get(ARGV[1], 'worker') ~= ARGV[2] then return 0 end
redis.call('ZADD', RUNNING, 0, ARGV[1])
return 1
