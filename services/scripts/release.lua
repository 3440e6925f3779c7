-- Ask for every job of a worker that is to stop; it puts them down at its next sign of life.
-- ARGV: worker
go_on_without_memory()
for _, id in ipairs(redis.call('ZRANGE', RUNNING, 0, -1)) do
  if get(id, 'worker') == ARGV[1] then redis.call('HSET', JOB .. id, 'release', 'release') end
end
return 1
