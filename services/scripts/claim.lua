-- Give the first job that waits in a lane to one worker.
-- ARGV: lane, worker, lease ms, ttl s
-- Returns {id, the fence that every later write must show}, or nothing if no job waits.
go_on_without_memory()
local at = now()
for _ = 1, 1000 do
  local id = redis.call('ZRANGE', QUEUED .. ARGV[1], 0, 0)[1]
  if not id then return nil end
  if get(id, 'status') ~= 'queued' then
    redis.call('ZREM', QUEUED .. ARGV[1], id)
  elseif is_late(id, at) then
    expire(id, tonumber(ARGV[4]), at)
  else
    withdraw(id)
    local fence = redis.call('HINCRBY', JOB .. id, 'fence', 1)
    redis.call('HINCRBY', JOB .. id, 'attempts', 1)
    redis.call('HINCRBY', JOB .. id, 'failures', 1)
    redis.call('HSETNX', JOB .. id, 'started_ms', at)
    redis.call('HSET', JOB .. id, 'worker', ARGV[2])
    redis.call('ZADD', RUNNING, at + ARGV[3], id)
    enter(id, 'running')
    return {id, fence}
  end
end
