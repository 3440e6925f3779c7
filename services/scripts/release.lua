-- Ask for every job of a worker that is to stop; it puts them down at its next sign of life.
-- ARGV: node, whose processes are called <node>:<pid>
go_on_without_memory()
for _, id in ipairs(redis.call('ZRANGE', RUNNING, 0, -1)) do
  local worker = get(id, 'worker') or ''
  if string.sub(worker, 1, #ARGV[1] + 1) == ARGV[1] .. ':' then redis.call('HSET', JOB .. id, 'release', 'release') end
end
return 1
