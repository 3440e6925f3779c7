-- Cancel a job: at once while it waits, at its worker's next sign of life while it runs.
-- ARGV: id, ttl s
-- Returns the status it has now, or '' if there is no such job.
go_on_without_memory()
local status = get(ARGV[1], 'status')
if status == 'running' then redis.call('HSET', JOB .. ARGV[1], 'wish', 'cancel') end
if status == 'queued' or status == 'paused' then
  finalise(ARGV[1], 'canceled', tonumber(ARGV[2]), now())
end
return get(ARGV[1], 'status') or ''
